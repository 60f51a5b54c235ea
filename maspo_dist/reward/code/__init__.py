"""Programs, tested in a sandbox.

verifier     the `code` verifier: reads program and tests, and runs the tests
program      where the program stands in a response
references   the tests in a reference, in the shapes of public data sets
calls        tests that call the program: relays between judge and candidate
sandbox      runs a program under limits; the table of what each isolation allows

Seven files run inside the sandbox, outside this package, with the standard library only:
sandbox_launcher   makes the sandbox (namespaces or seccomp and Landlock, limits) and becomes the program
harness            what every program starts with; runs scripts
messages           what judge and candidate write to each other
candidate          a program that is called
judge              the tests that call it
handles            what stands in these tests for the program's objects
mini_pytest        what such tests use of pytest
"""
