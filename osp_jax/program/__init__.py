"""Analysis of a traced program: the leaves that gate a channel, and the inputs of each kernel."""
