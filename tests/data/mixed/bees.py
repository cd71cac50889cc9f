"""Bees."""

import math


# How far a bee flies.
def distance(x, y):
    return math.hypot(x, y)


class Hive:
    """A home of bees."""

    def __init__(self):
        self.bees = []

    def add(self, bee):
        self.bees.append(bee)
