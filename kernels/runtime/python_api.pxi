# CPython's C interface, beyond what Cython declares.
# uses: nothing

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object value)
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1
    object PyLong_FromLongLong(long long value)
    const char *PyUnicode_AsUTF8AndSize(object value, Py_ssize_t *size) except NULL
    object PyUnicode_DecodeUTF8(const char *s, Py_ssize_t size, const char *errors)
    int PyUnicode_CheckExact(object value)
    int PyUnicode_IS_COMPACT_ASCII(object value)
    Py_ssize_t PyUnicode_GET_LENGTH(object value)
    void *PyUnicode_DATA(object value)
    int PyErr_CheckSignals() except -1

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept

# An error that leaves native code would bring a frame of each function on its way, without source or variables. For a
# debugger, a notebook and a reader of the traceback these stand between the user's line and his error. So an error that is
# caught here may have no traceback. Code that Cython makes for `except` and `finally` only gives the reference to it back;
# that for `with` would hand it on: there is no `with` in these files but for the GIL.
cdef extern from *:
    """
    #include <stdlib.h>

    static int ff_traceback_here(PyFrameObject *frame)
    {
        static int is_shown = -1;
        if (is_shown < 0)
            is_shown = getenv("FLAME_FAST_NATIVE_FRAMES") != NULL;
        return is_shown ? PyTraceBack_Here(frame) : 0;
    }
    #define PyTraceBack_Here ff_traceback_here
    #undef Py_DECREF
    #define Py_DECREF(op) Py_XDECREF((PyObject *)(op))
    """
