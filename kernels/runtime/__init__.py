"""The native runtime: a process's attachment to a runner's segment; PROTOCOL.md specifies how its words change."""

from flame_fast.kernels.runtime._native import DRIVER as DRIVER
from flame_fast.kernels.runtime._native import UNCALLABLE as UNCALLABLE
from flame_fast.kernels.runtime._native import ZYGOTE as ZYGOTE
from flame_fast.kernels.runtime._native import CallTarget as CallTarget
from flame_fast.kernels.runtime._native import Client as Client
from flame_fast.kernels.runtime._native import DefinitionHold as DefinitionHold
from flame_fast.kernels.runtime._native import MapResults as MapResults
from flame_fast.kernels.runtime._native import ObjectFuture as ObjectFuture
from flame_fast.kernels.runtime._native import ObjectRef as ObjectRef
from flame_fast.kernels.runtime._native import ProcessInfo as ProcessInfo
from flame_fast.kernels.runtime._native import ProcessState as ProcessState
from flame_fast.kernels.runtime._native import Role as Role
from flame_fast.kernels.runtime._native import Segment as Segment
from flame_fast.kernels.runtime._native import SegmentReader as SegmentReader
from flame_fast.kernels.runtime._native import Selector as Selector
from flame_fast.kernels.runtime._native import Services as Services
from flame_fast.kernels.runtime._native import Supervisor as Supervisor
from flame_fast.kernels.runtime._native import Values as Values
from flame_fast.kernels.runtime._native import Worker as Worker
from flame_fast.kernels.runtime._native import call_without_frames as call_without_frames
from flame_fast.kernels.runtime._native import check_timeout as check_timeout
from flame_fast.kernels.runtime._native import die_with_parent as die_with_parent
from flame_fast.kernels.runtime._native import forget_layouts as forget_layouts
from flame_fast.kernels.runtime._native import scan_pages as scan_pages
