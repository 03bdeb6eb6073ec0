from hypothesis import settings

# The machine that runs the tests may be busy: what a property says does not depend on how long it took.
settings.register_profile("lightkeras", deadline=None)
settings.load_profile("lightkeras")
