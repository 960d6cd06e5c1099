"""The translation from and to other libraries of this process: arrays, streams, element
types, DLPack.
"""
