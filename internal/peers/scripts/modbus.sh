serve() {
	# For a while after its death the port is taken for it.
	until /usr/bin/python3 -c '
from pymodbus.server import StartTcpServer
from pymodbus.datastore import ModbusServerContext, ModbusSlaveContext
StartTcpServer(context=ModbusServerContext(slaves=ModbusSlaveContext(), single=True), address=("0.0.0.0", 502))'; do sleep 0.5; done
}

play() {
	/usr/bin/python3 - <<-'P'
		import os, sys, time
		from pymodbus.client import ModbusTcpClient
		client = ModbusTcpClient(os.environ["ADDRESS"], port=502, timeout=30, retries=0)
		if not client.connect():
		    sys.exit("does not connect")
		n, more = 0, 20
		while more:
		    n += 1
		    values = [(n * i) % 65536 for i in range(100)]
		    for answer in client.write_registers(0, values), (read := client.read_holding_registers(0, 100)):
		        if answer.isError():
		            sys.exit(str(answer))
		    if read.registers != values:
		        sys.exit(3)
		    if n == 20:
		        open("going", "w")
		    more -= os.path.exists(os.environ["STOP"])
		    time.sleep(0.05)
	P
}
