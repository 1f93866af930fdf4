"""What other caches do on each model of the zoo, seen by running them.

``python -m hyca_calib.zoo.peers [MODEL ...]`` prints the table of ``docs/peers.md``. The runtime of
this project takes the same checks, as one more column.
"""

from hyca_calib.zoo.peers.judge import PeerVerdict, peer_matrix
from hyca_calib.zoo.peers.methods import PEERS
from hyca_calib.zoo.peers.table import main, to_markdown

__all__ = ["PEERS", "PeerVerdict", "main", "peer_matrix", "to_markdown"]
