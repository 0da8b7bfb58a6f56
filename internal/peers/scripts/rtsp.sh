serve() {
	exec /usr/bin/python3 -c '
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(address="0.0.0.0", service="8554")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch("( audiotestsrc is-live=true wave=sine ! audio/x-raw,rate=8000 ! alawenc ! rtppcmapay name=pay0 )")
factory.set_shared(True)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
GLib.MainLoop().run()'
}

play() {
	{ until [ "$(du -B1 recorded 2>/dev/null | cut -f1)0" -ge 160000 ]; do sleep 0.1; done; going; } &
	{ until over; do sleep 0.1; done; sleep 1; echo q; } |
		ffmpeg -hide_banner -nostats -loglevel warning -rtsp_transport tcp -i "rtsp://$ADDRESS:8554/live" -f s16le -flush_packets 1 recorded
	[ "$(stat -c %s recorded)" -gt 32000 ] || exit 3
	! grep -iE 'missed|reset|error|timed out' stderr >/dev/null || exit 1
}
