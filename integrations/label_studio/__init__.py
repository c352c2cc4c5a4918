"""Label Studio, where experts correct the masks: push, pull, and what both stand on."""
