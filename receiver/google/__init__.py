"""Google's REST APIs, as far as this project speaks them.

endpoints      where each API is: Google's address, or a stand-in on this machine
credentials    who this process is to Google: access tokens, refreshed ahead of their end
client         one request, authorised, repeated where that is safe, its refusals sorted
pubsub         publishing
"""
