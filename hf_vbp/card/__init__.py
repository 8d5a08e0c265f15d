"""Model cards: a typed object of facts, a Jinja template, a renderer; the Trainer callback apart."""

from hf_vbp.card.base_model import read_base_card
from hf_vbp.card.facts import BaseCard, CardFacts
from hf_vbp.card.render import make_facts, render_card, template

__all__ = ["BaseCard", "CardFacts", "make_facts", "read_base_card", "render_card", "template"]
