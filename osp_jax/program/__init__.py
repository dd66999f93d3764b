"""What is read off a traced program: which leaves gate a channel, and what each kernel reads."""
