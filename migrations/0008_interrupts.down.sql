DROP TABLE agent_interrupts;
