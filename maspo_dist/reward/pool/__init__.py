"""Processes that can be killed.

verifier_pool   what callers use: one queue, one verdict per sample
slot            the pool's threads: one per verifier process, or per remote verifier
process         start and end of one verifier process
worker          the program that the process runs
wire            the messages between pool and process
hung            remembers which samples hung lately
monitor         stops the run when too many samples have no verdict
kill            ends a process with all its descendants
"""
