'use strict';
// The camera: a dialog with what it sees, and a picture taken from it.

const paddlemaeCamera = (() => {
  const { byId, openDialog, closeDialog } = paddlemaeElements;
  const REASONS = {
    NotAllowedError: 'The browser or its user does not let this page use the camera.',
    NotFoundError: 'There is no camera.',
    NotReadableError: 'The camera is in use by another program.',
  };
  const NO_CAMERA = 'This browser gives no camera to a page from this address: open a picture instead.';

  /** Let the button open the camera; `take(video)` gets each picture, `say(words)` why there is none. */
  function createCamera({ take, say }) {
    const dialog = byId('camera');
    const video = byId('camera-video');
    let stream = null;

    function stop() {
      stream?.getTracks().forEach((track) => track.stop());
      stream = null;
      video.srcObject = null;
    }

    byId('open-camera').addEventListener('click', async () => {
      if (!navigator.mediaDevices?.getUserMedia) return say(NO_CAMERA);
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
        video.srcObject = stream;
        openDialog(dialog);
        await video.play();
      } catch (error) {
        stop();
        closeDialog(dialog);
        say(REASONS[error.name] ?? `The camera does not work: ${error.message}.`);
      }
    });
    byId('camera-take').addEventListener('click', async () => {
      await take(video);
      closeDialog(dialog);
    });
    byId('camera-close').addEventListener('click', () => closeDialog(dialog));
    dialog.addEventListener('close', stop);
  }

  return { createCamera };
})();
