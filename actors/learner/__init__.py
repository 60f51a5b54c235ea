"""The learner: DeepSpeed ranks as Ray actors.

actor    one rank: resolves references and calls its training engine
group    all ranks as one object: names, deadlines and lost ranks
weights  the weights of a rank on their way to engines by broadcast or by IPC
"""
