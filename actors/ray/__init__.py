"""What a run uses of Ray: the cluster, waits with deadlines, and Ray's errors as ours.

connection        joins a Ray cluster, or starts a cluster on this machine
token             Ray's authentication token, for processes that join by address
control           the named actor by which another shell reaches a live run
nodes             what nodes have, lack and leave, and whether the cluster adds nodes
placement_groups  reserves places in the cluster
actor_options     how plain classes become Ray actors, health calls, and where actors run
on_node           short tasks on the node of a given process
model_on_nodes    whether every node has the model, before actors start
waits             named waits with deadlines
errors            Ray's errors as ours
"""
