// A dozen prompts. Those with a file ship a page that was written by hand: a draft to run and to edit.

export const RULES =
  "You write small apps. Answer with one HTML document in a fenced code block and nothing else. Everything is in that one file: " +
  "CSS in <style>, JavaScript in <script>. There is no network: no links to other sites, fonts or libraries. It is responsive and can be used by keyboard.";

export const EXAMPLES = [
  { name: "Xylophone", file: "xylophone", prompt: "A xylophone with eight coloured bars. A press plays the note, and so do the keys 1 to 8.", feature: "a button that plays a scale" },
  { name: "Planet Tac Toe", file: "planet-tac-toe", prompt: "Tic-tac-toe among the stars: Earth against Saturn, drawn as planets, with a computer opponent and a score.", feature: "let Saturn begin every second round" },
  { name: "Video chat", file: "video-chat", devices: true, prompt: "A video-chat interface with a preview of my camera, a microphone level meter, mute and camera buttons and a message list.", feature: "a clock that shows how long the call lasts" },
  { name: "Drawing pad", file: "drawing-pad", prompt: "A drawing pad with a few colours, a width slider, an eraser, undo and clear.", feature: "a button that draws a grid" },
  { name: "Typing test", file: "typing-test", prompt: "A typing test that shows words a minute and how much was right while I type.", feature: "keep the best speed" },
  { name: "Snake", file: "snake", prompt: "Snake on a 20 by 20 field, with arrow keys and swipes, a score and the best score.", feature: "let the snake pass through walls" },
  { name: "Chat app", prompt: "A simulated chat app: contacts on the left, bubbles on the right, and a friend who answers after a moment." },
  { name: "Pomodoro", prompt: "A pomodoro timer with a ring that empties, 25 minutes of work and 5 of rest, and a count of rounds." },
  { name: "Calculator", prompt: "A calculator with large buttons that also takes the keyboard, with brackets and a history." },
  { name: "Memory", prompt: "A memory game of sixteen cards with simple shapes, a count of moves and a new-game button." },
  { name: "Metronome", prompt: "A metronome from 40 to 208 beats a minute with a swinging arm, an accent and tap tempo." },
  { name: "Colour mixer", prompt: "A colour mixer with three sliders, the colour's hex code, its contrast with black and white, and saved swatches." },
];
