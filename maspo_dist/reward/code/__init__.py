"""Programs, tested in a sandbox.

verifier           the `code` verifier: reads program and tests, runs the cases
asserts            tests that call the program: relays between judge and candidate
sandbox            runs a program under limits; the table of what each isolation allows

Three files run inside the sandbox, outside this package, with the standard library only:
sandbox_launcher   makes the sandbox (namespaces, limits) and becomes the program
sandbox_filter     isolation without namespaces: seccomp and Landlock
harness            judge and candidate of tests by asserts
"""
