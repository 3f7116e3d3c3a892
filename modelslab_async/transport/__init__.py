"""HTTP: requests with bounds, proxies, and the calls of the service's API."""
