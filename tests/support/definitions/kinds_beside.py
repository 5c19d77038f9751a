"""A module beside the matrix program, which workers import: makes classes out of the program's."""


def derive(base):
    class Derived(base):
        def beside(self):
            return "beside"

    return Derived


def method_of(value):
    return value.beside()
