"""The formats on the socket between a member and its broker: messages, requests,
handles, and the server of descriptors.
"""
