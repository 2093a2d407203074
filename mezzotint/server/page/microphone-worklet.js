// Runs beside the sound: samples of the microphone as int16, a tenth of a second at a time.

class Samples extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Int16Array(Math.round(sampleRate / 10));
    this.count = 0;
  }

  process(inputs) {
    const channels = inputs[0];
    if (!channels.length) return true;
    for (let i = 0; i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      const value = Math.max(-1, Math.min(1, sum / channels.length));
      this.held[this.count++] = Math.round(value * 32767);
      if (this.count === this.held.length) {
        const full = this.held.buffer;
        this.held = new Int16Array(this.held.length);
        this.count = 0;
        this.port.postMessage(full, [full]);
      }
    }
    return true;
  }
}

registerProcessor("samples", Samples);
