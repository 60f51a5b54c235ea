"""Programs, tested in a sandbox.

verifier           the `code` verifier: reads the tests and runs them
program            where the program stands in a response
asserts            tests that call the program: relays between judge and candidate
sandbox            runs a program under limits; the table of what each isolation allows

Two files run inside the sandbox, outside this package, with the standard library only:
sandbox_launcher   makes the sandbox (namespaces or seccomp and Landlock, limits) and becomes the program
harness            judge and candidate of tests by asserts
"""
