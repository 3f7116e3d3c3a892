"""HTTP: bounded requests over aiohttp, proxies, and the calls of the service's API."""
