"""What other libraries of this process bring and take: arrays, streams, element types,
DLPack.
"""
