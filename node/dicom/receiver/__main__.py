"""The entry of the receiving process."""

import sys

from node.dicom.receiver.process import main

main(sys.argv[1:])
