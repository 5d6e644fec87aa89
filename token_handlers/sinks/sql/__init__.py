"""What every SQL store shares: the columns of a call, what is summed, and which rows answer a question."""
