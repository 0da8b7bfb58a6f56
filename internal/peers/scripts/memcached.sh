serve() { exec memcached -u nobody -l 0.0.0.0 -p 11211; }

play() {
	/usr/bin/python3 - <<-'P'
		import os, sys, time
		from pymemcache.client.base import Client
		client = Client((os.environ["ADDRESS"], 11211), connect_timeout=30, timeout=30, no_delay=True)
		key, n, more = os.environ["RUN"], 0, 20
		while more:
		    n += 1
		    client.set(key, str(n) * 1000, noreply=False)
		    if client.get(key) != (str(n) * 1000).encode():
		        sys.exit(3)
		    if n == 20:
		        open("going", "w")
		    more -= os.path.exists(os.environ["STOP"])
		    time.sleep(0.05)
	P
}
