serve() {
	if [ ! -d mail ]; then
		mkdir -p mail/cur mail/new mail/tmp
		content text 4
		base64 -w 76 text | split -a 3 -d -l 1000 - part.
		for f in part.*; do { printf 'From: a@lockstep.test\nSubject: %s\n\n' "$f"; cat "$f"; } >"mail/cur/1000000${f#part.}.M1.lab:2,S"; done
		chown -R nobody:nogroup mail
	fi
	cat >conf <<-C
		protocols = imap
		base_dir = /run/dovecot
		log_path = /dev/stderr
		mail_location = maildir:$PWD/mail
		ssl = no
		disable_plaintext_auth = no
		first_valid_uid = 1
		first_valid_gid = 1
		passdb {
		  driver = static
		  args = nopassword=y
		}
		userdb {
		  driver = static
		  args = uid=nobody gid=nogroup home=$PWD/mail
		}
		service imap-login {
		  inet_listener imap {
		    port = 143
		  }
		}
	C
	exec dovecot -F -c "$PWD/conf"
}

play() {
	local last
	last=$(find "$SERVER/mail/cur" -type f | wc -l)
	curl -q -sS --user jane:secret "imap://$ADDRESS/INBOX;UID=[1-$last]" | brake >out
	tr -d '\r' <out >got
	cat "$SERVER"/mail/cur/* >want
	same got want
}
