"""What componentize-py begins with: clocks and chance are taken away first, then the project is read."""

from eye_validator import frozen

frozen.take_away()

from validator import WitWorld  # noqa: E402  (the order is the point)

WitWorld.try_examples()
