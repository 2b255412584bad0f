"""The routers of this folder, entered among router.ROUTERS as this file is imported: config.EXPERTS_PER_TOKEN has their names."""
from ..router import ROUTERS, Router, chance, jitter, no_noise, switch
from . import explore
from .ntlb import ntlb

ROUTERS.update({
    "argmax": Router(switch, 1, no_noise),
    "sample": Router(explore.sample, 1, chance),
    "input-dropout": Router(switch, 1, explore.dropout),
    "ntlb": Router(ntlb, 1, jitter),
})
