"""Decide when to poll a job next, from the service's eta and from how long such jobs took. No I/O and no clock."""
