"""One file per published system: how it turns a prediction into losses."""
