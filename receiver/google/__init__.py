"""Google's REST APIs, the part that this project uses.

endpoints      where each API is: Google's address, or a stand-in on this machine
credentials    who this process is to Google: access tokens, refreshed ahead of their end
environment    the proxy and the authorities that the environment names
sockets        connections, for httpcore
client         one request: authorised, repeated where that is safe, its refusals sorted by kind
pubsub         publishing
"""
