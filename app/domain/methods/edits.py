"""The settings of the methods that change the weights once."""
