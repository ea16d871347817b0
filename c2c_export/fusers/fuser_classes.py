"""Where a new Fuser class plugs in."""

from __future__ import annotations

from c2c_export.fusers.fuser import C2CFuserLayer, FuserLayer
from c2c_export.fusers.fuser_all_in_one import AllInOneFuserLayer

# By published class name; these compare case-insensitively.
FUSER_CLASSES: dict[str, type[FuserLayer]] = {
    layer_class.published_name.lower(): layer_class
    for layer_class in (C2CFuserLayer, AllInOneFuserLayer)
}
