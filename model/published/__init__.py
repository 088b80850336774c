"""Published networks by name: their layers, their input, what their number means, how files are recognised."""
