"""Made-up data in native formats, for trying things out and for testing readers."""

from taskloom.data.simulate.aff_wild2 import simulate_aff_wild2
from taskloom.data.simulate.affectnet import simulate_affectnet
from taskloom.data.simulate.celeba import simulate_celeba
from taskloom.data.simulate.clothing_attributes import simulate_clothing_attributes
from taskloom.data.simulate.cub import simulate_cub
from taskloom.data.simulate.deap import simulate_deap
from taskloom.data.simulate.emotionet import simulate_emotionet
from taskloom.data.simulate.mtfl import simulate_mtfl
from taskloom.data.simulate.opportunity import simulate_opportunity
from taskloom.data.simulate.planted import simulate_planted
from taskloom.data.simulate.raf_db import simulate_raf_db
from taskloom.data.simulate.utkface import simulate_utkface

__all__ = [
    "simulate_aff_wild2",
    "simulate_affectnet",
    "simulate_celeba",
    "simulate_clothing_attributes",
    "simulate_cub",
    "simulate_deap",
    "simulate_emotionet",
    "simulate_mtfl",
    "simulate_opportunity",
    "simulate_planted",
    "simulate_raf_db",
    "simulate_utkface",
]
