"""What a version must show before it is published: witness, as served, utility, the person."""
