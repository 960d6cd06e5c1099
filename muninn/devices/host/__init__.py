"""The host back-end: emulated GPUs whose memory is shared host memory."""
