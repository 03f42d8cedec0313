"""The catalogue of sound events: `EVENTS` holds every kind by name."""

from dlink_adapter.soundscapes.events.animals import ANIMALS
from dlink_adapter.soundscapes.events.event import Event
from dlink_adapter.soundscapes.events.household import HOUSEHOLD
from dlink_adapter.soundscapes.events.machines import MACHINES
from dlink_adapter.soundscapes.events.people import PEOPLE
from dlink_adapter.soundscapes.events.weather import WEATHER

__all__ = ["ANIMALS", "EVENTS", "HOUSEHOLD", "MACHINES", "PEOPLE", "WEATHER", "Event"]

EVENTS: dict[str, Event] = {event.name: event for event in (*ANIMALS, *PEOPLE, *WEATHER, *MACHINES, *HOUSEHOLD)}
