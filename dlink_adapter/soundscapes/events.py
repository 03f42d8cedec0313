"""The catalogue of the sound world: every kind of event by name."""

from dlink_adapter.soundscapes.animals import ANIMALS
from dlink_adapter.soundscapes.event import Event
from dlink_adapter.soundscapes.household import HOUSEHOLD
from dlink_adapter.soundscapes.machines import MACHINES
from dlink_adapter.soundscapes.people import PEOPLE
from dlink_adapter.soundscapes.weather import WEATHER

EVENTS: dict[str, Event] = {event.name: event for event in (*ANIMALS, *PEOPLE, *WEATHER, *MACHINES, *HOUSEHOLD)}
