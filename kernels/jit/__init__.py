"""Parts of the kernels: SIMD vectors in nopython code, the cache of compiled code, threads."""
