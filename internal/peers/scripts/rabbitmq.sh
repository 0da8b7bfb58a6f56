serve() {
	export HOME=$PWD RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_MNESIA_BASE=$PWD/db RABBITMQ_LOG_BASE=$PWD/log RABBITMQ_CONFIG_FILE=$PWD/rabbitmq RABBITMQ_PID_FILE=$PWD/pid \
		RABBITMQ_ENABLED_PLUGINS_FILE=$PWD/plugins RABBITMQ_LOGS=-
	printf 'loopback_users = none\nlisteners.tcp.default = 5672\n' >rabbitmq.conf
	echo '[].' >plugins
	exec /usr/lib/rabbitmq/bin/rabbitmq-server
}

play() {
	local consumer
	amqp-declare-queue --server "$ADDRESS" -q "$RUN" >/dev/null
	: >got
	setsid amqp-consume --server "$ADDRESS" -q "$RUN" -A -- cat >got 2>consume-error &
	consumer=$!
	{ until [ "$(wc -l <got)" -ge 20 ]; do sleep 0.05; done; going; } &
	steps @ | amqp-publish --server "$ADDRESS" -r "$RUN" -l
	reached got "$(cat steps)"
	kill -- -$consumer || :
	cat consume-error >&2
	numbered @ >want
	same got want
}
