"""When to poll a job next, from the service's eta and from how long such jobs took. Pure."""
