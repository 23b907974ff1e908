"""The processes of a run on several devices (ranks): started, watched and ended together.

The process that was started computes nothing itself and starts one rank per device: so it can hear a signal, notice a
death and end the others at any moment, whatever they wait for.
"""
