# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
import sys

# With this module, OpenVINO tells its makers over the network how it is used. Without it, it has a stand-in that sends
# nothing.
sys.modules.setdefault("openvino_telemetry", None)
