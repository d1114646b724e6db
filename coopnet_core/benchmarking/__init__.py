"""How long the networks and the whole pipeline take, side by side with a baseline."""
