"""What the kernels are made of: vectors in nopython code, compiled code kept on disk, threads."""
