"""The paper's distribution of scenes and of relations per prompt, as weights read from its figures.

The paper names sixteen scenes and shows a long tail without names. The names of the tail here are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.preferences.dataset.statistics import PAPER_RELATIONS, PAPER_SCENES
from pipelines.preferences.roles.base import RowSpec

TOTAL = sum(PAPER_RELATIONS.values())

_TAIL_SCENES = """
Warehouse, Market, Bookshelf, Park, Rooftop Terrace, Stadium, Beach, Workshop, Laboratory, Library, Museum,
Art Studio, Music Room, Recording Studio, Gym, Swimming Pool, Playground, Train Station, Train Carriage, Bus Stop,
Airport Lounge, Harbor, Boat Deck, Fishing Pier, Lakeshore, Riverbank, Forest Clearing, Mountain Cabin, Ski Lodge,
Desert Camp, Farmyard, Barn, Stable, Vineyard, Orchard, Flower Shop, Bakery, Cafe, Restaurant, Bar, Food Truck,
Grocery Store, Bookstore, Toy Store, Clothing Store, Shoe Store, Jewelry Shop, Antique Shop, Pharmacy,
Hospital Room, Dental Clinic, Waiting Room, Veterinary Clinic, Office, Meeting Room, Reception, Lecture Hall,
Kindergarten, School Corridor, Chemistry Lab, Theater Stage, Dressing Room, Cinema, Concert Hall, Church,
Temple Courtyard, Courtyard, Town Square, Street Corner, Alley, Sidewalk Cafe, Parking Lot, Gas Station,
Car Interior, Bicycle Shop, Construction Site, Factory Floor, Print Shop, Pottery Studio, Sewing Room,
Laundry Room, Pantry, Basement, Attic, Walk-in Closet, Mudroom, Staircase, Sunroom, Porch, Driveway, Front Yard,
Backyard, Treehouse, Tool Shed, Picnic Area, Botanical Garden, Zoo Enclosure, Aquarium, Pet Shop, Tea House,
Wine Cellar, Brewery, Hotel Room, Hotel Lobby, Spa, Barber Shop, Arcade, Game Room, Bowling Alley, Chess Club,
Tailor Shop, Post Office, Bank Counter, Courtroom, Newsroom, Observatory, Lighthouse, Space Station, Submarine,
Castle Hall
"""
TAIL_SCENES = tuple(_TAIL_SCENES.replace("\n", " ").strip().split(", "))

VIEWPOINTS = (
    "as seen by the viewer",
    "from the viewer's perspective",
    "from the camera's point of view",
    "seen straight from the front",
    "from a slightly raised viewpoint in front",
    "as the viewer faces the scene",
)


@dataclass(frozen=True)
class Assignment:
    """The task of the writer for one prompt."""

    scene: str
    relations: int
    viewpoint: str
    variation: int  # makes two questions for the same scene different


def assign(spec: RowSpec, fewest: int, most: int) -> Assignment:
    """Draws from the paper's distribution, limited to `fewest` to `most` relations, by the seed of the row."""
    rng = np.random.default_rng([spec.seed, 0])
    tail = (TOTAL - sum(PAPER_SCENES.values())) / len(TAIL_SCENES)
    scenes, weights = [*PAPER_SCENES, *TAIL_SCENES], [*PAPER_SCENES.values(), *(tail for _ in TAIL_SCENES)]
    counts = range(fewest, most + 1)
    shares = np.array([PAPER_RELATIONS[n] for n in counts], dtype=float)
    return Assignment(
        scenes[rng.choice(len(scenes), p=np.array(weights) / sum(weights))],
        int(rng.choice(counts, p=shares / shares.sum())),
        VIEWPOINTS[rng.integers(len(VIEWPOINTS))],
        spec.seed,
    )


def draw_edit_count(spec: RowSpec, relations: int, single_edit_fraction: float) -> int:
    """Number of relations to change in a prompt with `relations` relations: one, or two to three."""
    rng = np.random.default_rng([spec.seed, 1])
    return min(relations, 1 if rng.random() < single_edit_fraction else int(rng.integers(2, 4)))
