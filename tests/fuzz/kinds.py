"""Every kind of file that somebody else wrote, by name."""

from tests.fuzz.image_kinds import IMAGES
from tests.fuzz.kind import Kind
from tests.fuzz.run_kinds import RUNS
from tests.fuzz.table_kinds import TABLES

KINDS: dict[str, Kind] = {**TABLES, **IMAGES, **RUNS}
