"""Face detectors: where the faces of a photograph are, with five landmarks each."""
