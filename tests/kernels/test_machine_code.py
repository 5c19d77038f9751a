"""The kernels' machine code: in the loop that takes the time, full vectors, no call, no heap, no spill.

Code for other CPUs is made here, not run: for x86-64 with AVX-512 by Numba itself, told that this were such a CPU; for ARM
by LLVM, from the kernels' code before instruction selection.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys

import llvmlite.binding as llvm
import pytest

PATIENCE_S = 100

#: Compiles in a process and a cache of its own, so that it loads nothing compiled for another CPU.
COMPILE = """\
import json, sys
import flame_fast.kernels.jit.quarter_circle as q

told = {"assembly": q.count_by_turns.inspect_asm(), "llvm": q.count_by_turns.inspect_llvm()}
told = {name: next(iter(found.values())) for name, found in told.items()}
if "fill" in sys.argv:
    from numba import float64, uint64
    from flame_fast.kernels.rng.filling import fill_with_normals
    fill_with_normals.compile((uint64[:, ::1], float64[::1]))
    told["fill_normals"] = next(iter(fill_with_normals.inspect_asm().values()))
print(json.dumps(told))
"""

X86 = platform.machine() in ("x86_64", "AMD64")
ON_X86 = pytest.mark.skipif(not X86, reason="code for x86-64 is made on x86-64")

CPUS = {"this CPU": {}}
if X86:
    CPUS["AVX-512"] = {
        "NUMBA_CPU_NAME": "skylake-avx512",
        "NUMBA_CPU_FEATURES": "+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx2,+avx,+fma,+bmi,+bmi2",
    }


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return the code compiled for each CPU; the compilations run at the same time."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", COMPILE, *(["fill"] if name == "this CPU" else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings, "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))},
        )
        for name, settings in CPUS.items()
    }
    told = {}
    try:
        for name, process in processes.items():
            output, errors = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, errors) == (0, ""), name
            told[name] = json.loads(output)
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return told


# ---- reading assembly ----------------------------------------------------------------------------------------------------

LABEL = re.compile(r"^([.\w$]+):")
INSTRUCTION = re.compile(r"^\s+([a-z][\w.]*)\s*(.*?)\s*$")
DIRECTIVE = re.compile(r"^\s+\.")


def innermost_loop_with(assembly, operation):
    """Return the instructions of the shortest loop with an operation, from a label to a jump back to it.

    Each is (mnemonic, operands). Code that hardly ever runs is not among them: the compiler has moved it elsewhere.
    """
    labels, code, loops = {}, [], []
    for line in assembly.splitlines():
        if found := LABEL.match(line):
            labels[found[1]] = len(code)
        elif not DIRECTIVE.match(line) and (found := INSTRUCTION.match(line)):
            code.append((found[1], found[2]))
            target = found[2].split(",")[-1].strip()
            if (found[1].startswith("j") or found[1].startswith("b") or found[1].startswith("cb")) and target in labels:
                loops.append((labels[target], len(code)))
    wanted = [loop for first, end in loops if has(loop := code[first:end], operation)]
    assert wanted, f"no loop has {operation}"
    return min(wanted, key=len)


def has(loop, operation):
    return any(re.fullmatch(operation, mnemonic) for mnemonic, _ in loop)


def calls_of(loop):
    return [instruction for instruction in loop if re.fullmatch("call[a-z]*|blr?|syscall|svc", instruction[0])]


def stack_uses(loop):
    """Return the accesses below the frame pointer, and no others: the register may serve another purpose."""
    return [instruction for instruction in loop if re.search(r"%rsp\b|-\d+\(%rbp|\bsp\b", instruction[1])]


def stores_of(loop):
    """Return the instructions that write memory: on x86-64 those whose last operand is memory, but for comparisons."""
    return [
        (mnemonic, operands)
        for mnemonic, operands in loop
        if (operands.endswith(")") and not re.match("v?cmp|v?test|j|p?cmp", mnemonic) and "," in operands)
        or mnemonic in ("str", "stp")
    ]


def registers_of(loop):
    return set(re.findall(r"%([xyz]mm)\d", " ".join(operands for _, operands in loop)))


def test_the_reader_finds_the_inner_loop_and_what_is_in_it():
    assembly = """\
outer:
\tvpmaddwd\t%zmm1, %zmm1, %zmm1
\tmovq\t8(%rsp), %rax
.LBB0_1:
\t.p2align\t4
\tvpmaddwd\t%ymm1, %ymm1, %ymm1
\tcallq\t*%rax
\tvmovdqu\t%ymm1, (%rdx)
\tjne\t.LBB0_1
\tjmp\touter
"""
    loop = innermost_loop_with(assembly, "vpmaddwd")
    assert [mnemonic for mnemonic, _ in loop] == ["vpmaddwd", "callq", "vmovdqu", "jne"]
    assert registers_of(loop) == {"ymm"}
    assert len(calls_of(loop)) == len(stores_of(loop)) == 1
    assert not stack_uses(loop)
    outer = innermost_loop_with(assembly.replace("vpmaddwd\\t%ymm1", "vpaddd\\t%ymm1").replace("jne", "nop"), "movq")
    assert len(stack_uses(outer)) == 1
    with pytest.raises(AssertionError, match="no loop has smull"):
        innermost_loop_with(assembly, "smull")


# ---- counting points -----------------------------------------------------------------------------------------------------

#: Of a step of 8 lanes: the output takes two sums of 64-bit lanes, the next state five exclusive ors. A rotation is two
#: shifts and an or where the CPU has no instruction for it.
SUMS, EXCLUSIVE_ORS = 2, 5


def count_of(loop, operation, registers):
    return sum(mnemonic == operation and operands.count(f"%{registers}") == 3 for mnemonic, operands in loop)


@ON_X86
def test_with_avx512_a_step_is_one_register_of_eight_lanes(compiled):
    loop = innermost_loop_with(compiled["AVX-512"]["assembly"], "vpmaddwd")
    assert registers_of(loop) == {"zmm"}
    assert not calls_of(loop)
    assert not stack_uses(loop)
    assert [mnemonic for mnemonic, _ in stores_of(loop)] == ["vmovdqu64"]  # the row, for the rare refinement
    assert count_of(loop, "vpmaddwd", "zmm") == 1
    assert count_of(loop, "vpaddq", "zmm") == SUMS
    assert sum(mnemonic == "vprolq" for mnemonic, _ in loop) == 2
    assert len(loop) <= 30


@ON_X86
def test_on_this_cpu_a_step_is_full_registers_and_nothing_else(compiled):
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512bw"):
        registers, parts = "zmm", 1
    elif features.get("avx2"):
        registers, parts = "ymm", 2
    else:
        pytest.skip("neither AVX-512 nor AVX2 here")
    loop = innermost_loop_with(compiled["this CPU"]["assembly"], "vpmaddwd")
    assert registers_of(loop) == {registers}
    assert not calls_of(loop)
    assert not stack_uses(loop)
    assert len(stores_of(loop)) == parts
    assert count_of(loop, "vpmaddwd", registers) == parts
    assert count_of(loop, "vpaddq", registers) == SUMS * parts
    assert len(loop) <= 30 * parts


def test_on_arm_a_step_is_four_registers(compiled):
    """Sixteen lanes of 32 bits take four registers of NEON; the state of all lanes stays in its 32 registers."""
    if X86:
        assembly = for_arm(compiled["AVX-512"]["llvm"])
    elif platform.machine() in ("aarch64", "arm64"):
        assembly = compiled["this CPU"]["assembly"]
    else:
        pytest.skip("neither x86-64 nor ARM here")
    loop = innermost_loop_with(assembly, "smlal2?")
    squares = [operands for mnemonic, operands in loop if re.fullmatch("smlal2?", mnemonic)]
    assert len(squares) == 4
    assert all(re.match(r"v\d+\.4s, v\d+\.[48]h, v\d+\.[48]h", operands) for operands in squares)
    sums = [operands for mnemonic, operands in loop if mnemonic == "add" and ".2d" in operands]
    assert len(sums) == 4 * SUMS
    assert sum(mnemonic == "eor" and ".16b" in operands for mnemonic, operands in loop) == 4 * EXCLUSIVE_ORS
    assert not calls_of(loop)
    assert len(stack_uses(loop)) <= 2  # two constants are loaded, nothing is spilled
    assert all(mnemonic.startswith("ld") for mnemonic, _ in stack_uses(loop))


def for_arm(code):
    """Compile LLVM's code to ARM's assembly; skip where LLVM was built for this CPU only."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = "aarch64-unknown-linux-gnu"
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip("this LLVM makes no code for ARM")
    module = llvm.parse_assembly(code)
    module.triple = triple
    machine = target.create_target_machine(opt=3)
    module.data_layout = str(machine.target_data)
    return machine.emit_assembly(module)


def test_no_code_asks_for_memory_in_a_loop(compiled):
    """Neither the loop over steps nor the one over blocks around it allocates; all memory is on the stack."""
    for name, told in compiled.items():
        assert "NRT_Allocate" not in told["assembly"], name
        assert "NRT_MemInfo_alloc" not in told["assembly"], name


# ---- normal numbers ------------------------------------------------------------------------------------------------------


@ON_X86
def test_normal_numbers_take_no_call_for_logarithm_root_sine_and_cosine(compiled):
    features = llvm.get_host_cpu_features()
    if not (features.get("avx2") and features.get("fma")):
        pytest.skip("no fused multiply-add here")
    loop = innermost_loop_with(compiled["this CPU"]["fill_normals"], "vsqrtpd")
    assert not calls_of(loop)
    assert has(loop, "vfmadd.*pd|vfnmadd.*pd|vfmsub.*pd")
    assert not has(loop, "v(sqrt|div|mul|add|sub)sd"), "numbers one by one"
    assert registers_of(loop) <= {"ymm", "zmm"} | {"xmm"}
